"""Splat files of other tools, read and written; and what people do to splats between formats."""
