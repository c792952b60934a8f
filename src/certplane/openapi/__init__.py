"""The OpenAPI 2 and 3 documents, generated from the declarations of the kinds."""
