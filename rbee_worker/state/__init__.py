"""What a sequence keeps between steps: specs, the block allocator, the pool of tensors."""
