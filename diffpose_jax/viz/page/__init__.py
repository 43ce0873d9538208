"""The page that shows people in 3D: one HTML file that needs no network."""
