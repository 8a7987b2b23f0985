"""Production: PostgreSQL, object storage and Ray, with local stand-ins for each (see README.md)."""
