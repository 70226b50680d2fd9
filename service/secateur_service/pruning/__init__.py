"""The numerics of pruning: statistics of layer inputs, scores, patterns, updates.

Imports torch and nothing of ours: it can be read, tested and used alone. Notation, throughout: W is m×n (outputs ×
inputs), X is T×n (the inputs that a layer saw), S the target sparsity, ℓ a language with mixing weight w_ℓ and T_ℓ
tokens, and N:M means N kept of every M consecutive inputs.
"""
