"""The pods of a node, as a kubelet keeps them."""
