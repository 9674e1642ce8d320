-- Records the wish that a turn be stopped; its owner learns of it with its next append, or with the end.
-- KEYS: 1 meta. ARGV: 1 why. Reply: {1, owner}, {0} not running.
local m = redis.call('HMGET', KEYS[1], 'st', 'own')
if m[1] ~= 'R' then return {0} end
-- The first write is one that a full server lets pass, and with it the one that counts.
redis.call('HDEL', KEYS[1], 'ask')
redis.call('HSET', KEYS[1], 'stop', ARGV[1])
return {1, m[2]}
