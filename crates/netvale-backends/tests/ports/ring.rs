use netvale_testkit as _;
