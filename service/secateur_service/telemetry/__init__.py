"""How the service is seen from outside: metrics and logs."""
