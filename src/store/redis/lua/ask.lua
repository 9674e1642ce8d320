-- Notes that the backend of a running turn is being asked to stop it, or is not any more: an end meanwhile may be that stop.
-- KEYS: 1 meta. ARGV: 1 '1' asked, '' not any more. Reply: {1} noted, {0} not running.
if redis.call('HGET', KEYS[1], 'st') ~= 'R' then return {0} end
-- The first write is one that a full server lets pass, and with it the second.
redis.call('HDEL', KEYS[1], 'ask')
if ARGV[1] == '1' then redis.call('HSET', KEYS[1], 'ask', '1') end
return {1}
