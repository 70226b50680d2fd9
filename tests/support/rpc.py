"""Errors of gRPC without a network."""

import grpc


class Refused(grpc.RpcError):
    """An error as gRPC raises it."""

    def __init__(self, code, message="", trailers=()):
        self._parts = code, message, trailers

    def code(self):
        return self._parts[0]

    def details(self):
        return self._parts[1]

    def trailing_metadata(self):
        return self._parts[2]
