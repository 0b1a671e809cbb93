"""Model families: one file each, built from the same layers. A family's file defines `Config` and `Model`."""
