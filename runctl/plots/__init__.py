"""The plots of a sweep: the facts that they show, and PNG pictures, drawn by matplotlib."""
