"""What runs where Barman runs: sent whole, on stdin, to the ``python3`` there (3.9 or newer); ``content.ask`` sends it.

So nothing of ours has to be installed on Barman's host, and what must be read byte by byte does not travel. These
modules import nothing but the standard library and each other.
"""
