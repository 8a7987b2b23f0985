"""Sorting, the SOG reader and writer, and the report on size and quality."""
