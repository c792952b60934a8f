"""The PKI directory on disk: layout, expiry, renewal."""
