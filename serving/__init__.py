"""`ttc serve`: an HTTP service over one engine, in which all callers share its calls."""
