"""Students that learn a teacher's answers together with its reasons."""
