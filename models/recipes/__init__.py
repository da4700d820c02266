"""How the sample models are made. One file per model, and three that they share: graph, network, png."""
