mod smollm2;
