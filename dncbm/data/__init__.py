"""Images, their readers and splits, and worlds whose concepts are known exactly."""
