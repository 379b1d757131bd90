"""Rivals that must not share a process with torch: two thread pools that both spin slow each other down."""
