"""From photo to people: pre-processing, decoding, drawing and judging poses."""
