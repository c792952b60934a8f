"""TBSCertificate, the part of a certificate that is signed: written, and read back."""
