"""What every artifact shares: a folder with a manifest, published whole, current by pointer."""
