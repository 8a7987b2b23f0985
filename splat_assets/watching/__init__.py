"""What to watch for new datasets: the watch list, what the Hub and drop boxes hold, what to run."""
