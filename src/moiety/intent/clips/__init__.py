"""Raw clips: decoded, measured, and made into frames."""
