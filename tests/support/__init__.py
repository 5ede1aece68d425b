"""What tests share: real servers, real runs, and what is done to them."""
