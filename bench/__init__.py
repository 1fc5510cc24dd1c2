"""What must be fast, measured against a plain reference implementation in the same run: ``python -m bench``."""
