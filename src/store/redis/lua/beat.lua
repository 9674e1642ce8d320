-- Renews a node's sign of life. A full server refuses SET, but not after PEXPIRE.
-- KEYS: 1 node. ARGV: 1 ttl in ms. Reply: 1 renewed, 0 made anew.
if redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 1 then return 1 end
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
return 0
