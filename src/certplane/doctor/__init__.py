"""Checks of an installation: facts in, findings out. `*facts` modules read; `*checks` modules decide, and are pure."""
