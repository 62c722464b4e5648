"""The interface of a backend: what a call carries, what it brings back, and who answers it."""
