"""Enginefarm: the contract and the client.

What a serving node installs. The server rooms (`models`, `toolchains`, `api`, `workers`) import this
package; it imports none of them.
"""

__version__ = "0.1.0"
