"""The web UI. It knows run folders and the configuration, and never touches a tensor."""
