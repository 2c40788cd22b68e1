"""Ingress, pure: objects in, what NGINX is to do out."""
