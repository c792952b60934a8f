"""PKI: the input is bytes, values and a time. Nothing here imports a Kubernetes type, but some modules know the rules
of kinds, signer names and reserved names. Only `issuance/cafiles` and `issuance/authority` read files.
"""
