-- Appends a batch if the epoch owns the turn and the batch follows on its last block.
-- KEYS: 1 meta, 2 blocks. ARGV: 1 epoch, 2 seq before the batch, 3 last seq, 4 number of blocks, 5 blocks, 6 their bytes,
-- 7 the header, with the first batch.
-- Reply: {1, stop, watcher} written, {-1} fenced, {-2, seq} at another block, {-3} unknown.
-- Seqs are compared as text: Lua numbers are doubles.
local m = redis.call('HMGET', KEYS[1], 'ep', 'n', 'st', 'by', 'stop', 'w')
if not m[1] then return {-3} end
if m[1] ~= ARGV[1] or m[3] ~= 'R' then return {-1} end
if m[2] ~= ARGV[2] then return {-2, m[2]} end
-- XADD is the first write: a full server refuses it, and with it the script, before anything is changed.
if not redis.call('XADD', KEYS[2], 'NOMKSTREAM', ARGV[3] .. '-' .. ARGV[4], 'd', ARGV[5]) then return {-3} end
redis.call('HSET', KEYS[1], 'n', ARGV[3], 'by', string.format('%.0f', tonumber(m[4]) + tonumber(ARGV[6])))
if ARGV[7] then redis.call('HSET', KEYS[1], 'hd', ARGV[7]) end
if m[6] then redis.call('HDEL', KEYS[1], 'w') end
return {1, m[5], m[6]}
