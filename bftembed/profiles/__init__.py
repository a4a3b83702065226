"""Text: prompts, generators, the store, the runner and the screening of profiles."""
