"""Programs that write docs, schemas, manifests and pictures: `make generate` and its neighbours."""
