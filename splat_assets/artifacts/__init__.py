"""What every artifact shares: a folder with a manifest, published atomically, current by pointer."""
