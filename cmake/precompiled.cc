// Compiled with a precompiled header alone, for the targets that share it (siglip_precompile in SiglipTargets.cmake).
