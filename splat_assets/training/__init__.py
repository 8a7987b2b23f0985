"""Losses, schedule, densification, the trainer, and evaluation on held-out views."""
