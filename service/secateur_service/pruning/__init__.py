"""The numerics of pruning: statistics of layer inputs, scores, patterns, updates.

Imports torch and no other package of ours, so it can be read, tested and used on its own. Notation throughout: W is
m×n (outputs × inputs), X is T×n (the inputs that a layer saw), S is the target sparsity, ℓ is a language with mixing
weight w_ℓ and T_ℓ tokens, and N:M means that N of every M consecutive inputs are kept.
"""
