"""Image sets: pictures, captions, buckets and the order in which they train. Never torch."""
