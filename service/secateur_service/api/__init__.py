"""The gRPC front: validates, translates and streams; holds no state and never imports torch."""
