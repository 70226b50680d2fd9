"""The gRPC front end: validates, translates and streams; holds no state and never imports torch."""
