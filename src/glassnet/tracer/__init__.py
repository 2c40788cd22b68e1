"""What the kernel has done with packets, told in the words of the cluster: pods, Services, nodes."""
