"""Fetchers, one module per kind of source, each turning a source URI into untouched originals."""
