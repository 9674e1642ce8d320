-- Puts compressed entries of an ended turn aside and, with the last of them, in place of its blocks.
-- KEYS: 1 meta, 2 blocks, 3 where entries are put aside. ARGV: 1 epoch, 2 last seq of the turn, 3 seq before these entries,
-- 4 '1' if they are the last, 5… last seq, number of blocks and bytes of each entry.
-- Reply: {1} done, {0} the turn is not what it is taken for, or not these entries' turn.
local m = redis.call('HMGET', KEYS[1], 'ep', 'n', 'st', 'z')
if m[1] ~= ARGV[1] or m[2] ~= ARGV[2] or m[3] ~= 'E' or m[4] then return {0} end
local ttl = redis.call('PTTL', KEYS[1])
if ttl <= 0 or redis.call('EXISTS', KEYS[2]) == 0 then return {0} end
-- The first write is one that a full server lets pass, and with it what makes room there.
redis.call('PEXPIRE', KEYS[1], ttl)
if ARGV[3] == '0' then
  redis.call('DEL', KEYS[3])
  redis.call('XADD', KEYS[3], '0-1', 'v', '1')
end
local top = redis.call('XRANGE', KEYS[3], ARGV[3], '+')
if #top ~= 1 or string.match(top[1][1], '^%d+') ~= ARGV[3] then return {0} end
for i = 5, #ARGV, 3 do redis.call('XADD', KEYS[3], ARGV[i] .. '-' .. ARGV[i + 1], 'z', ARGV[i + 2]) end
if ARGV[4] == '1' then
  redis.call('RENAME', KEYS[3], KEYS[2])
  redis.call('HSET', KEYS[1], 'z', '1')
  redis.call('PEXPIRE', KEYS[2], ttl)
else
  redis.call('PEXPIRE', KEYS[3], math.min(ttl, 60000))
end
return {1}
