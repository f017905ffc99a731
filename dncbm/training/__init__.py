"""What every learning room shares: schedules, seeds and resumable checkpoints."""
