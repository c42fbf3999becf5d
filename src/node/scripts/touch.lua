-- Raises the fencing counter and extends, heals or adopts, only for the owner and the attempt.
-- KEYS: lock, fence (none: the lock is unfenced)
-- ARGV: owner, ttl ms (0: leave the expiry), token, fence ttl ms, id ('' for a random owner),
--       'raise' | 'extend' | 'heal' | 'adopt'
-- Returns {2, counter, pttl}: this lock; {1, counter}: put back; {0, pttl, hash, name}: another owner's lock, with its
--         holder's name if it has one; {6, pttl, hash}: another attempt's; {-1}: gone; {-2}: the attempt has ended.
-- What PTTL says is not the same on a replica. Redis 6 with `lua-replicate-commands no`, which has replicas run the
-- script, allows no write after it, unless it is told to send them the writes instead. Others always do.
if redis.replicate_commands then redis.replicate_commands() end
local fence = KEYS[2] and redis.call('GET', KEYS[2]) or '0'
local counter, id, state = string.match(fence .. ' ', '^(%d+) (%x*)([hx]?) ?$')
local held, ttl, mode = tonumber(ARGV[3]), tonumber(ARGV[2]), ARGV[6]
counter = tonumber(counter)
if not counter or math.max(counter, held) > 9e15 then return redis.error_reply('ERR the fencing counter holds no usable number') end
local owner = redis.call('GET', KEYS[1])
if owner ~= ARGV[1] or id ~= ARGV[5] then
  if id == ARGV[5] and id ~= '' and state == 'x' then return {-2} end
  if owner then
    local hash = string.sub(redis.sha1hex(owner .. ' ' .. id), 1, 8)
    local name = #owner < 256 and string.match(owner, '^\1?([^/%c]+)/\1' .. string.rep('[%da-f]', 32) .. '$') or nil
    return {owner == ARGV[1] and 6 or 0, redis.call('PTTL', KEYS[1]), hash, name}
  end
  if mode ~= 'heal' then return {-1} end
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ttl)
  id, state = ARGV[5], ''
elseif mode == 'adopt' and counter ~= held then
  return {2, counter, redis.call('PTTL', KEYS[1])}
elseif ttl > redis.call('PTTL', KEYS[1]) and ttl > 0 then
  redis.call('PEXPIRE', KEYS[1], ttl)
end
counter = math.max(counter, held)
if KEYS[2] then
  -- Only who holds the lock extends or heals it. Beside its token, that tells others of this owner that they may share it.
  if counter == held and (mode == 'extend' or mode == 'heal') then state = 'h' end
  local value = string.format('%.0f', counter) .. (id ~= '' and ' ' .. id .. state or '')
  -- As the lock's own expiry, the counter's is never shortened: without it a lock that still lives could not be told.
  local keeps = math.max(tonumber(ARGV[4]), redis.call('PTTL', KEYS[2]))
  -- When memory is short, a SET is refused unless the script has written before, so that PEXPIRE comes first.
  local is_there = redis.pcall('PEXPIRE', KEYS[2], keeps)
  local counted = (is_there ~= 1 or value ~= fence) and redis.pcall('SET', KEYS[2], value, 'PX', keeps)
  if counted and counted.err then
    -- What fails must have left no lock behind.
    if not owner then redis.call('DEL', KEYS[1]) end
    return counted
  end
end
if not owner then return {1, counter} end
return {2, counter, ttl}
