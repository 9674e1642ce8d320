-- Leaves word that a node follows a running turn; its owner learns of it with its next append.
-- KEYS: 1 meta. ARGV: 1 node. Reply: {1, owner}, {0} not running.
local m = redis.call('HMGET', KEYS[1], 'st', 'own')
if m[1] ~= 'R' then return {0} end
-- A write that changes nothing and that a full server lets pass, and with it the one that counts.
redis.call('HDEL', KEYS[1], '_')
redis.call('HSET', KEYS[1], 'w', ARGV[1])
return {1, m[2]}
