--[[ Worker Nodes on Demand: what slurmctld checks when a job is submitted or changed.

  * The hidden partition of the VM nodes is for the bait alone: only root, SlurmUser and wnod_trusted_uids may name it.
  * A job for a bait partition must be a batch job on one node: an interactive job has no script that could move.
  * `sbatch --get-user-env` and `--export=NONE` make slurmd run the user's login shell on the bait, outside of the job and
    before any hook. The request is taken off here and left for the VM's starter (WNOD_GET_USER_ENV=1).
  * A job that is submitted inside a job begins at restart count 0 all the same.
  * A hold on a parked job, which is held already, is marked in its comment, or the bait could not know it from its own.
  * Slurm calls `--dependency=afternotok:JOB` fulfilled as soon as JOB is parked: a parked job is in state SPECIAL_EXIT.

  Edit the three settings below. A site that has a job_submit.lua calls wnod_submit and wnod_modify from its own functions.
]]

wnod_vm_partition = "vwn"
wnod_bait_partitions = { batch = true }
wnod_trusted_uids = {} -- as in { 995 }: of the baits' account, where it is not SlurmUser (`id -u wnod-bait`)

local UNSET32 = 0xfffffffe -- Slurm's NO_VAL: the user said nothing
local HOLD_MARK = "[wnod-hold]" -- as in bait/lrms/slurm_parse.py

local function refuse(text)
  slurm.log_user("wnod: " .. text)
  return slurm.ERROR
end

-- scontrol shows its user nothing but a code: this one tells more than "Unspecified error". Why is in slurmctld's log.
local function refuse_change(text)
  slurm.log_info("wnod: a user's change of a job is refused: %s", text)
  return slurm.ESLURM_ACCESS_DENIED
end

local function each_partition(names)
  return string.gmatch(names or "", "[^,]+")
end

local function names_vm_partition(names)
  for name in each_partition(names) do
    if name == wnod_vm_partition then return true end
  end
  return false
end

local function names_bait_partition(names)
  for name in each_partition(names) do
    if wnod_bait_partitions[name] then return true end
  end
  return false
end

local function is_bait_job(desc, partitions)
  local names = desc.partition
  if names == nil or names == "" then
    for name, partition in pairs(partitions or {}) do
      if partition.flag_default == 1 then names = name end
    end
  end
  return names_bait_partition(names)
end

local function trusted(uid)
  for _, one in ipairs(wnod_trusted_uids or {}) do
    if uid == one then return true end
  end
  return uid == 0 or (wnod_slurm_uid ~= nil and uid == wnod_slurm_uid)
end

-- slurmctld runs as SlurmUser: the owner of our own process is the one to trust.
local function own_uid()
  local status = io.open("/proc/self/status")
  if status == nil then return nil end
  local text = status:read("*a")
  status:close()
  return tonumber(string.match(text, "Uid:%s*(%d+)"))
end
wnod_slurm_uid = own_uid()

local function postpone_login_environment(desc)
  local environment = desc.environment
  if environment ~= nil and environment["SLURM_GET_USER_ENV"] == "1" then
    environment["SLURM_GET_USER_ENV"] = "0"
    environment["WNOD_GET_USER_ENV"] = "1"
  end
end

local function waits_for_a_failure(desc)
  return string.find(desc.dependency or "", "afternotok", 1, true) ~= nil
end

local NO_FAILURES = "Slurm takes a job that waits for its VM for one that has failed, so afternotok would not wait: use "
  .. "afterany, and let the job look how the other one ended (scontrol show job)"

-- A job that is submitted inside another brings that one's count along. The starter would take it for its own, which no
-- bait believes, and the job would go back to the queue for two minutes. From the first requeue on Slurm writes its own.
local function forget_restarts(desc)
  local environment = desc.environment
  if environment ~= nil and environment["SLURM_RESTART_COUNT"] ~= nil then environment["SLURM_RESTART_COUNT"] = "0" end
end

-- By its bait, which puts its note on the job before.
local function is_parked(job)
  return job ~= nil and job.priority == 0 and string.find(job.admin_comment or "", "^wnod:lease=") ~= nil
end

-- Slurm shows no difference between a parked job and one that somebody has held besides: it would start all the same.
local function mark_hold(desc, job)
  if job == nil or desc.priority == nil or desc.priority == UNSET32 then return end
  local rest = job.comment or ""
  local marked = string.sub(rest, 1, #HOLD_MARK) == HOLD_MARK
  if marked then rest = string.gsub(string.sub(rest, #HOLD_MARK + 1), "^ ", "") end
  if desc.priority == 0 and is_parked(job) then
    desc.comment = rest == "" and HOLD_MARK or HOLD_MARK .. " " .. rest
  elseif desc.priority ~= 0 and marked then
    desc.comment = rest
  end
end

-- What the bait has settled with the VM; the user may still change comment, time limit, name and the like.
local function changes_binding(desc)
  return desc.partition ~= nil or desc.req_nodes ~= nil or desc.exc_nodes ~= nil or desc.features ~= nil
end

function wnod_submit(desc, partitions, uid)
  if names_vm_partition(desc.partition) and not trusted(uid) then
    return refuse("partition " .. wnod_vm_partition .. " is not for users: leave the partition away, name an environment with -C")
  end
  if not is_bait_job(desc, partitions) then return slurm.SUCCESS end
  if desc.script == nil or desc.script == "" then
    return refuse("this partition runs batch jobs in virtual machines: use sbatch, for one job and not for a "
      .. "heterogeneous one (srun works inside the job)")
  end
  local nodes = desc.min_nodes
  if nodes ~= nil and nodes ~= UNSET32 and nodes > 1 then
    return refuse("a job here runs in one virtual machine: ask for one node (-N 1), not " .. nodes)
  end
  if waits_for_a_failure(desc) then return refuse(NO_FAILURES) end
  postpone_login_environment(desc)
  forget_restarts(desc)
  return slurm.SUCCESS
end

function wnod_modify(desc, job, partitions, uid)
  mark_hold(desc, job)
  if trusted(uid) then return slurm.SUCCESS end
  if names_vm_partition(desc.partition) then
    return refuse_change("partition " .. wnod_vm_partition .. " is not for users")
  end
  if job ~= nil and names_vm_partition(job.partition) and changes_binding(desc) then
    return refuse_change("this job is bound to a virtual machine: cancel it, or wait for its end")
  end
  if is_parked(job) and desc.begin_time ~= nil and desc.begin_time ~= 0 then
    return refuse_change("this job is on its way to its virtual machine and starts at once: hold it, and set the time later")
  end
  -- What wnod_submit looks at cannot be asked for any more: whether the login shell would run, of all things.
  if job ~= nil and names_bait_partition(desc.partition) and not names_bait_partition(job.partition) then
    return refuse_change("a job of another partition cannot be moved into one of virtual machines: submit it there")
  end
  if job ~= nil and names_bait_partition(job.partition) and waits_for_a_failure(desc) then return refuse_change(NO_FAILURES) end
  return slurm.SUCCESS
end

function slurm_job_submit(desc, partitions, uid)
  return wnod_submit(desc, partitions, uid)
end

function slurm_job_modify(desc, job, partitions, uid)
  return wnod_modify(desc, job, partitions, uid)
end

return slurm.SUCCESS
