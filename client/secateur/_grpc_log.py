"""Silences gRPC's own log; imported before gRPC, which reads the variable when it is loaded.

What gRPC prints of a failed connection or of a stranger's handshake, an error of ours says in words, and in a server's
log it would be lines that are not JSON. Whoever sets GRPC_VERBOSITY, or imports gRPC first, keeps what they want.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
