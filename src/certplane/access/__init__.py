"""Authentication, authorization, and the admission hooks that check permissions."""
